"""A server of streams: WebSocket sessions, decoded together, and a page for the microphone.

Needs aiohttp (extra `serve`).
"""
