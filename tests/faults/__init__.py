"""The faults of the literature on training problems, at three severities each, and who finds them."""
