"""What Trivet costs beside a bare relay and the LiteLLM proxy: `scripts/bench-overhead`."""
