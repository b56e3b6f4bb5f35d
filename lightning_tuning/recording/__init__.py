"""What a run leaves behind: the callback that keeps it in a folder and makes the report. Observers."""
