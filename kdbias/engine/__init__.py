"""Where units of work run: in this process (`here`), in several that a launcher started (`ranks`), on Ray.

A unit reads files, writes its file whole, and returns a few numbers. Files are the only state: whatever dies,
the same command again finds what is done. Results never depend on where units ran, or how often they died.
"""
