"""Tools of the workbench: tiny models, simulation, benchmarks."""
