#!/bin/sh
# The guest runs this at its first boot.
echo "user data ran on $(hostname)" | tee /run/user-data-was-here
