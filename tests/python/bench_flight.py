"""A pyarrow Flight server that takes rows and forgets them. Prints its port."""

import pyarrow.flight as flight


class Server(flight.FlightServerBase):
    def do_put(self, context, descriptor, reader, writer):
        for chunk in reader:
            chunk.data.num_rows


server = Server("grpc://127.0.0.1:0")
print(server.port, flush=True)
server.serve()
