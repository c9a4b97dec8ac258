"""Runs one node and forwards ports on request: JSON lines in, JSON lines out."""
import asyncio
import json
import sys

import arkitekt_mesh


def say(**event):
    print(json.dumps(event), flush=True)


async def main():
    order = json.loads(sys.argv[1])
    while True:
        try:
            node = await arkitekt_mesh.Node.start(
                order["state"], order["hostname"], control_url=order["control_url"],
                auth_key=order["auth_key"], timeout=30)
            break
        except arkitekt_mesh.Timeout as error:
            say(event="retry", error=str(error))
    say(event="up", addresses=node.addresses)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        peer = json.loads(line)["forward"]
        try:
            say(event="forward", peer=peer, address=await node.forward(peer, 80))
        except Exception as error:
            say(event="refused", peer=peer, error=str(error))
    node.close()


asyncio.run(main())
