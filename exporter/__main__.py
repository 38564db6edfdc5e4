"""python -m exporter MODEL [OUT]: the command bn-export."""

from exporter.commands.export import export_command

if __name__ == "__main__":
    export_command()
