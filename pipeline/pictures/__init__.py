"""From the bytes of a file, a photo or a vector drawing, to the square that networks see."""
