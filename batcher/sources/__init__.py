"""Row sources: Parquet, JSONL and CSV files, plain or compressed, read in flat memory.

`source.FileSource` is the door; everything else here serves it.
"""
