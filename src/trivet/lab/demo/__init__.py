"""The demo: real engines on tiny models, real requests, one killed engine, one exhausted budget."""

from trivet.lab.demo.play import run_demo
from trivet.lab.demo.report import DemoReport

__all__ = ["DemoReport", "run_demo"]
