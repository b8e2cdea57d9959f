"""Exit statuses: the one table from error codes to them."""

OK = 0
FAILED = 1
USAGE = 2
CONFIG = 3
STORE = 4
ACCESS = 5
BUDGET = 6
ENGINE = 7
DIFFERENCES = 8

_BY_CODE = {
    "config_invalid": CONFIG,
    "store_locked": STORE,
    "store_error": STORE,
    "budget_store_unavailable": STORE,
    "api_key_missing": ACCESS,
    "invalid_api_key": ACCESS,
    "permission_denied": ACCESS,
    "budget_exhausted": BUDGET,
    "budget_contended": BUDGET,
    "approval_required": BUDGET,
    "nonessential_blocked": BUDGET,
    "price_unknown": BUDGET,
    "request_too_large": BUDGET,
    "rate_limit_exceeded": BUDGET,
    "overloaded": ENGINE,
    "server_differs": ENGINE,
    "server_unreachable": ENGINE,
    "stopping": ENGINE,
}


def exit_status(code: str) -> int:
    """Return the exit status for a stable error code."""
    return _BY_CODE.get(code, ENGINE if code.startswith("upstream_") else FAILED)
