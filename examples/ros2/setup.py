"""How colcon installs the package: the node, and beside it what launches and configures it."""

from pathlib import Path

from setuptools import setup

NAME = "deepir_ros"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", [str(file) for file in sorted(Path("launch").glob("*.py"))]),
        (f"share/{NAME}/config", [str(file) for file in sorted(Path("config").glob("*.yaml"))]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    description="Names what a camera sees with deepir",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"deepir_node = {NAME}.node:main"]},
)
