"""A server for SERL's actors, whose pickles are read by an interpreter that cannot call."""
