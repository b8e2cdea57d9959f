"""How a double ends with whoever started it."""

import os
import threading


def end_with_parent() -> None:
    """End the process when standard input does: whoever started it has gone."""

    def wait() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock must not be held when the interpreter ends
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
