"""Tables, figures and the HTML page of a run, made from the files in its run folder alone."""
