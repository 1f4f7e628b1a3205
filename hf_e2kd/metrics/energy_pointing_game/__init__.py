"""Energy pointing game: how much of an explanation lies on the object."""
