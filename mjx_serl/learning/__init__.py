"""The learner of arms elsewhere: what comes from them, and what goes back."""
