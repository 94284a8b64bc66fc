"""The command line: start the studio, make one video without it, look after jobs and models.

If a studio already runs on the data folder, commands go to it; otherwise they do the work themselves. Exit codes:
0 done, 1 failed, 2 bad request, 130 cancelled.
"""
