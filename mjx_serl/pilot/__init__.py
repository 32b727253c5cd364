"""A person who drives a simulated arm from a page in the browser, while it trains or without."""
