"""One world and many of them: what steps, controls, observes and draws them."""
