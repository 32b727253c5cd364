"""What a person looks at: videos, pictures of worlds, the page in the browser."""
