"""What runs in the processes of cells. This folder is on their path; nothing in it imports `pool`."""
