"""Teachers, students and their training; torch lives in this room alone."""
