"""`mhc-exp doctor`: is this installation sound, is this run directory, and what can be repaired without risk."""
