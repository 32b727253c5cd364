"""SERL's robot servers, spoken to over HTTP."""
