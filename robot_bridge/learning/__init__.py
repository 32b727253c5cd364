"""An arm that a policy learns on: steps to the learner, newer parameters back."""
