"""Layouts of files of splats, one module each; `assets.load` reads any of them."""
