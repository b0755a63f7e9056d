//! Streams of a kubelet's exec, attach and port-forward: SPDY/3.1 and WebSocket.
