"""llama.cpp's own server, as the package xllamacpp carries it: ``llama_server.py MODEL MMPROJ PORT``."""

import sys
import threading

import xllamacpp

asked = xllamacpp.CommonParams()
asked.model.path, asked.mmproj.path, asked.port = sys.argv[1], sys.argv[2], int(sys.argv[3])
asked.n_parallel, asked.n_ctx, asked.warmup, asked.cpuparams.n_threads = 1, 512, False, 1
server = xllamacpp.Server(asked)
threading.Event().wait()
