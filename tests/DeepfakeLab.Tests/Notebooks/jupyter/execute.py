"""Executes a notebook as nbclient does for those who call it: execute.py IN OUT."""
import os
import sys

import nbclient
import nbformat

notebook = nbformat.read(sys.argv[1], as_version=4)
where = {"metadata": {"path": os.path.dirname(os.path.abspath(sys.argv[1]))}}  # the kernel's working folder, as nbconvert sets it
nbclient.NotebookClient(notebook, timeout=600, resources=where).execute()
nbformat.write(notebook, sys.argv[2])
