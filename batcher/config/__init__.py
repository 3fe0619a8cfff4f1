"""The job file: read, checked, filled in, fingerprinted, and described for editors and people."""
