"""The ROS shell: everything that imports rclpy, message packages or tf2, and nothing that computes."""
