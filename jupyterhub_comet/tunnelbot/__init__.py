"""tunnelbot: the SSH gateway that jobs dial and through which their notebooks are reached."""
