"""One image: decoded, resized, encoded, counted. Pure."""
