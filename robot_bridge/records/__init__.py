"""Recordings of what an arm did: written, read, exported as demonstrations and LeRobot data."""
