"""The control loop of one arm at its fixed rate, who commands it, and the session around it."""
