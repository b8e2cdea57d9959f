"""Routing: what a request looks like, what it needs, and which deployments may serve it, with reasons."""

from trivet.routing.complexity import ComplexityEstimator
from trivet.routing.explain import decision_as_json
from trivet.routing.request import parse_chat
from trivet.routing.router import Router
from trivet.routing.surfaces import describe, parse_request

__all__ = ["ComplexityEstimator", "Router", "decision_as_json", "describe", "parse_chat", "parse_request"]
