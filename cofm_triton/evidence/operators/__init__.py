"""One file per operator, of its name: how it is drawn, validated, timed and compiled."""
