"""Where samples come from: `opening.open_data` finds the kind of a data set and opens it."""
