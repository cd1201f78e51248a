"""A python-socketio client of any version: sends telemetries one by one and prints, as JSON, what answers them.

PYTHONPATH=FOLDER_OF_THE_VERSION python steer.py URL COUNT, a JPEG in base64 on standard input.
"""

import json
import queue
import sys
import threading
import time

import engineio
import socketio

steers = queue.Queue()
client = socketio.Client(reconnection=False)
client.on("steer", steers.put)
client.connect(sys.argv[1], transports=["websocket"])
image, answers = sys.stdin.read(), []
for number in range(int(sys.argv[2])):
    client.emit("telemetry", {"steering_angle": "0.0000", "throttle": "0.0000", "speed": f"{number}.0", "image": image})
    answers.append(steers.get(timeout=10))
time.sleep(0.2)
left_over = steers.qsize()


def tell_unless_writing(ended):
    """Version 4 closes its socket while its own thread of `_write_loop` may still be about to use it."""
    if ended.exc_type is not OSError or "_write_loop" not in ended.thread.name:
        threading.__excepthook__(ended)


threading.excepthook = tell_unless_writing
client.disconnect()
print(json.dumps({"modules": [socketio.__file__, engineio.__file__], "answers": answers, "left_over": left_over}))
