"""Videos, pictures of worlds and the live page in the browser."""
