"""A search for the options of a training: what is searched, the trials, where they run, and the study that judges."""
