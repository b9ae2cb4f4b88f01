"""The node's services and actions as tools, for whoever reads and writes JSON: models, agents, scripts.

    catalogue.py   what there is: names, what each does, the schemas of arguments and results
    robot.py       a call of a tool becomes a call of the node, and its reply plain data
    server.py      the same over the Model Context Protocol: `qwen3vl mcp`

A ROS client like any other: what a tool does, anyone can do over the same topics, services and actions.
"""
