"""Running a workflow on a ComfyUI server: `server` knows its routes, `wire` carries requests and messages within bounds
of size and time, `answers` checks what comes back, `object_info` turns its list of node types into a registry.
"""
