"""What licensed data sets hold: their sheets and folders, read into records of one form."""
