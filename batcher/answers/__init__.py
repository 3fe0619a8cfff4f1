"""What counts as an answer: free text, one of the labels, and the job's success rule over all rows."""
