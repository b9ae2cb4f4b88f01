"""The live page: what the node sees and says, in a browser, and what it can be asked. A ROS client like any other."""
