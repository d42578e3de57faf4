"""Tables and figures as functions of the results frame; nothing here imports torch or ray."""
