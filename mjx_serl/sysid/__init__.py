"""System identification: what simulator parameters make a recorded arm."""
