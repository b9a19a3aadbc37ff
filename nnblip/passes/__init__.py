"""Many cells in one forward pass: what is asked, the plan, the pass, the numbers of an example."""
