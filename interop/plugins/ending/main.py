"""A plugin on the module `ekuiper` whose sources end by themselves, in each way there is."""

from ekuiper import Context, Plugin, Source

app = Plugin("ending")
kept = []


class Ends(Source):
    """Emits as many rows as it is told, and returns, or raises."""

    def configure(self, datasource, conf):
        self.rows, self.how = conf.get("rows", 0), conf.get("how")

    def open(self, ctx):
        # A program may keep what it is given.
        kept.append(ctx)
        for number in range(self.rows):
            ctx.emit({"number": number})
        if self.how == "raises":
            raise OSError("the file is gone")

    def close(self, ctx):
        pass


app.source(Ends, name="by_class")


@app.source
def by_generator(rows: int = 0, how: str = "returns"):
    for number in range(rows):
        yield {"number": number}
    if how == "raises":
        raise OSError("the file is gone")


@app.source
async def by_asynchronous_generator(rows: int = 0, how: str = "returns"):
    for number in range(rows):
        yield {"number": number}
    if how == "raises":
        raise OSError("the file is gone")


@app.source
def by_hand(ctx: Context, rows: int = 0, how: str = "returns"):
    for number in range(rows):
        ctx.emit({"number": number})
    if how == "raises":
        raise OSError("the file is gone")


@app.source
async def by_asynchronous_hand(ctx: Context, rows: int = 0, how: str = "returns"):
    by_hand(ctx, rows, how)


if __name__ == "__main__":
    app.run()
