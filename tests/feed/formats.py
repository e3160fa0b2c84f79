"""Files as data sources deliver them: the layout of each is real, its numbers are made up.

`FORMATS` has one entry a layout. `source` says who writes it. The first natural command is `replay
FILE --feature FEATURE`. It reads the file, or refuses it with the words `refused`; then the same
command with `flags` reads it.
"""

from __future__ import annotations

import datetime as dt
import gzip
import io
import math
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROWS = 60
START = dt.datetime(2024, 3, 20, 9, 30)
MISSING = math.nan
_RNG = random.Random(21)
PRICES = [100.0]
for _ in range(ROWS - 1):
    PRICES.append(round(PRICES[-1] + _RNG.choice((-0.25, -0.1, 0.05, 0.1, 0.25)), 2))


class Format(NamedTuple):
    """A layout. first: numbers of the first row. time: that of the first row, in UTC, or ""."""

    source: str
    file: str
    text: str
    columns: tuple[str, ...]
    first: dict[str, float]
    feature: str
    time: str = ""
    refused: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    rows: int = ROWS
    encoding: str = "utf-8"

    def write(self, folder: Path) -> Path:
        """Write the file, packed as its name says."""
        path, data = folder / self.file, self.text.encode(self.encoding)
        if path.suffix == ".gz":
            data = gzip.compress(data)
        elif path.suffix == ".zip":
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(path.stem + ".csv", data)
            data = buffer.getvalue()
        path.write_bytes(data)
        return path


def table(
    head: str,
    line: Callable[[int, float, dt.datetime], str],
    step: dt.timedelta = dt.timedelta(minutes=1),
    *,
    newest_first: bool = False,
    end: str = "\n",
) -> str:
    """Return a header and one line for each row, given its number, price and time."""
    lines = [line(k, price, START + k * step) for k, price in enumerate(PRICES)]
    lines = lines[::-1] if newest_first else lines
    return end.join([*head.splitlines(), *lines, ""])


def bar(price: float, form: str = "{:.2f}", between: str = ",") -> str:
    """Return open, high, low and close."""
    return between.join(form.format(x) for x in (price - 0.05, price + 0.2, price - 0.2, price))


def unix(at: dt.datetime) -> int:
    return round(at.replace(tzinfo=dt.UTC).timestamp())


TAB = "\t"
GERMAN = str.maketrans(",.", ".,")
DAY, HOUR, SECOND = dt.timedelta(days=1), dt.timedelta(hours=1), dt.timedelta(seconds=1)
LAST = PRICES[-1]
DAYS = [START.date() + k * DAY for k in range(ROWS)]
T0 = "2024-03-20T09:30:00"
LAST_DAY = f"{DAYS[-1]}T00:00:00"
NEWEST = ("newest row comes first", "--reverse")
REVERSE = ("--reverse",)


def numbered(count: int) -> tuple[str, ...]:
    return tuple(f"c{k}" for k in range(count))


FORMATS: dict[str, Format] = {
    # ---- exchanges ---------------------------------------------------------------------------
    "binance klines": Format(
        "Binance, archive of klines: binance/binance-public-data, README.md, Klines",
        "BTCUSDT-1m-2024-03.zip",
        table(
            "",
            lambda k, p, t: (
                f"{unix(t)}000,{bar(p, '{:.8f}')},12.50000000,{unix(t) + 59}999,1250.00000000,"
                f"{13 + k},6.25000000,625.00000000,0"
            ),
        ),
        numbered(12),
        {"c1": 99.95, "c4": 100.0, "c8": 13.0},
        "log_return(c4)",
        T0,
    ),
    "binance aggregate trades": Format(
        "Binance, archive of aggregate trades: binance/binance-public-data, README.md, AggTrades",
        "BTCUSDT-aggTrades-2025-03-01.zip",
        table(
            "",
            lambda k, p, t: (
                f"{900 + k},{p:.8f},0.25000000,{1800 + k},{1800 + k},{unix(t)}000123,"
                f"{'False' if k % 3 else 'True'},True"
            ),
        ),
        numbered(8),
        {"c1": 100.0, "c2": 0.25},
        "log_return(c1)",
        "2024-03-20T09:30:00.000123",
    ),
    "kraken candles": Format(
        "Kraken, downloadable OHLCVT archive (XBTUSD_1.csv, no header)",
        "XBTUSD_1.csv",
        table("", lambda k, p, t: f"{unix(t)},{bar(p, '{:.1f}')},3.41000000,{k + 1}"),
        numbered(7),
        {"c4": 100.0, "c6": 1.0},
        "log_return(c4)",
        T0,
    ),
    "kraken trades": Format(
        "Kraken, downloadable archive of trades (XBTUSD.csv); bitcoincharts.com the same",
        "XBTUSD.csv",
        table("", lambda _, p, t: f"{unix(t)},{p:.5f},0.10000000", SECOND),
        numbered(3),
        {"c1": 100.0, "c2": 0.1},
        "log_return(c1)",
        T0,
    ),
    "cryptodatadownload": Format(
        "CryptoDataDownload, Binance_BTCUSDT_1h.csv: a line with its address, newest first",
        "Binance_BTCUSDT_1h.csv",
        table(
            "https://www.CryptoDataDownload.com\n"
            "Unix,Date,Symbol,Open,High,Low,Close,Volume BTC,Volume USDT,tradecount",
            lambda _, p, t: (
                f"{unix(t)}000,{t:%Y-%m-%d %H:%M:%S},BTCUSDT,{bar(p)},12.3,522000,1000"
            ),
            HOUR,
            newest_first=True,
        ),
        (
            *("Unix", "Date", "Symbol", "Open", "High", "Low", "Close", "Volume BTC"),
            *("Volume USDT", "tradecount"),
        ),
        {"Close": LAST, "Volume USDT": 522000.0},
        "log_return(Close)",
        f"{START + (ROWS - 1) * HOUR:%Y-%m-%dT%H:%M:%S}",
        NEWEST,
        REVERSE,
    ),
    "tardis trades": Format(
        "Tardis.dev, normalized trades: exchange,symbol,timestamp,local_timestamp,id,side,...",
        "deribit_trades_2024-03-20_BTC-PERPETUAL.csv.gz",
        table(
            "exchange,symbol,timestamp,local_timestamp,id,side,price,amount",
            lambda k, p, t: (
                f"deribit,BTC-PERPETUAL,{unix(t)}123000,{unix(t)}307160,{7000 + k},"
                f"{'sell' if k % 2 else 'buy'},{p},2152"
            ),
        ),
        ("exchange", "symbol", "timestamp", "local_timestamp", "id", "side", "price", "amount"),
        {"price": 100.0, "amount": 2152.0},
        "log_return(price)",
        "2024-03-20T09:30:00.123",
    ),
    "databento bars": Format(
        "Databento, schema ohlcv-1s as CSV: times with nine digits",
        "glbx-mdp3-20240320.ohlcv-1s.csv",
        table(
            "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol",
            lambda k, p, t: (
                f"{t:%Y-%m-%dT%H:%M:%S}.000000001Z,32,1,42003054,{bar(p, '{:.9f}')},{k + 6},MYMM5"
            ),
            SECOND,
        ),
        (
            *("ts_event", "rtype", "publisher_id", "instrument_id", "open", "high", "low"),
            *("close", "volume", "symbol"),
        ),
        {"close": 100.0, "volume": 6.0},
        "log_return(close)",
        "2024-03-20T09:30:00.000000001",
    ),
    "lobster messages": Format(
        "LOBSTER, message file without a header: seconds after midnight, type, id, size, price",
        "AAPL_2024-03-20_34200000_57600000_message_10.csv",
        table(
            "",
            lambda k, p, _: (
                f"{34200.017459617 + k / 8:.9f},{1 + k % 4},{11885113 + k},21,{p * 10000:.0f},"
                f"{1 if k % 2 else -1}"
            ),
        ),
        numbered(6),
        {"c1": 1.0, "c4": 1000000.0},
        "diff(c4)",
    ),
    "wrds taq": Format(
        "WRDS, TAQ consolidated trades: SYMBOL,DATE,TIME,PRICE,SIZE,G127,CORR,COND,EX",
        "dell_taq.csv",
        table(
            "SYMBOL,DATE,TIME,PRICE,SIZE,G127,CORR,COND,EX",
            lambda _, p, t: f"DELL,{t:%Y%m%d},{t.hour}:{t:%M:%S},{p},500,0,0,T,P",
        ),
        ("SYMBOL", "DATE", "TIME", "PRICE", "SIZE", "G127", "CORR", "COND", "EX"),
        {"PRICE": 100.0, "SIZE": 500.0},
        "log_return(PRICE)",
        T0,
    ),
    # ---- brokers and terminals ---------------------------------------------------------------
    "metatrader 5 bars": Format(
        "MetaTrader 5, Symbols, Bars, Export: tabs, names in angle brackets",
        "EURUSD_M1_202403200930_202403201029.csv",
        table(
            "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>",
            lambda k, p, t: f"{t:%Y.%m.%d}\t{t:%H:%M:%S}\t{bar(p, between=TAB)}\t{k + 1}\t0\t12",
            end="\r\n",
        ),
        (
            *("<DATE>", "<TIME>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<TICKVOL>", "<VOL>"),
            "<SPREAD>",
        ),
        {"<CLOSE>": 100.0, "<SPREAD>": 12.0},
        'log_return("<CLOSE>")',
        T0,
    ),
    "metatrader 4 history": Format(
        "MetaTrader 4, History Center, Export: no header; HistData's MetaTrader files the same",
        "EURUSD1.csv",
        table("", lambda k, p, t: f"{t:%Y.%m.%d},{t:%H:%M},{bar(p)},{k + 1}"),
        numbered(7),
        {"c5": 100.0, "c6": 1.0},
        "log_return(c5)",
        T0,
    ),
    "ninjatrader minutes": Format(
        "NinjaTrader 8, Historical Data, Export; HistData's generic ASCII bars the same",
        "MNQ 06-24.Last.txt",
        table("", lambda k, p, t: f"{t:%Y%m%d %H%M%S};{bar(p, between=';')};{k + 19}"),
        numbered(6),
        {"c4": 100.0, "c5": 19.0},
        "log_return(c4)",
        T0,
    ),
    "ninjatrader ticks": Format(
        "NinjaTrader 8, ticks: yyyyMMdd HHmmss fffffff;last;bid;ask;volume",
        "ES 06-24.Last.txt",
        table(
            "",
            lambda _, p, t: f"{t:%Y%m%d %H%M%S} 1230000;{p:.2f};{p - 0.25:.2f};{p + 0.25:.2f};2",
            SECOND,
        ),
        numbered(5),
        {"c1": 100.0, "c4": 2.0},
        "log_return(c1)",  # times in three parts are not found
    ),
    "dukascopy": Format(
        "Dukascopy, historical data export: Gmt time as DD.MM.YYYY HH:MM:SS.fff",
        "EURUSD_Candlestick_1_M_BID_20.03.2024-20.03.2024.csv",
        table(
            "Gmt time,Open,High,Low,Close,Volume",
            lambda _, p, t: f"{t:%d.%m.%Y %H:%M:%S}.000,{bar(p, '{:.5f}')},9899.999999999998",
        ),
        ("Gmt time", "Open", "High", "Low", "Close", "Volume"),
        {"Close": 100.0, "Volume": 9899.999999999998},
        "log_return(Close)",
        T0,
    ),
    "sierra chart": Format(
        "Sierra Chart, Write Bar Data to File: blanks after commas, one-digit months",
        "ESM24-CME.scid_BarData.txt",
        table(
            "Date, Time, Open, High, Low, Last, Volume, NumberOfTrades, BidVolume, AskVolume",
            lambda k, p, t: (
                f"{t.year}/{t.month}/{t.day}, {t:%H:%M:%S}.000, {bar(p, between=', ')}, "
                f"{k + 10}, 2, 7, 3"
            ),
        ),
        (
            *("Date", "Time", "Open", "High", "Low", "Last", "Volume", "NumberOfTrades"),
            *("BidVolume", "AskVolume"),
        ),
        {"Last": 100.0, "BidVolume": 7.0},
        "log_return(Last)",
        T0,
    ),
    # ---- quotes of a day ---------------------------------------------------------------------
    "stooq": Format(
        "Stooq, bulk download: <TICKER>,<PER>,<DATE>,<TIME>,...; Finam the same",
        "aaa.us.txt",
        table(
            "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>",
            lambda k, p, t: f"AAA.US,D,{t:%Y%m%d},000000,{bar(p)},{1000 + k},0",
            DAY,
            end="\r\n",
        ),
        (
            *("<TICKER>", "<PER>", "<DATE>", "<TIME>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>"),
            *("<VOL>", "<OPENINT>"),
        ),
        {"<CLOSE>": 100.0, "<VOL>": 1000.0},
        'log_return("<CLOSE>")',
        "2024-03-20T00:00:00",
    ),
    "stooq of a day": Format(
        "Stooq, bulk file with several tickers one after another",
        "data_d.txt",
        table(
            "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>",
            lambda k, p, _: (
                f"{'AAA.US' if k < 30 else 'BBB.US'},D,{DAYS[k % 30]:%Y%m%d},000000,"
                f"{bar(p if k < 30 else 7 * p)},{1000 + k},0"
            ),
        ),
        (
            *("<TICKER>", "<PER>", "<DATE>", "<TIME>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>"),
            *("<VOL>", "<OPENINT>"),
        ),
        {"<CLOSE>": 100.0, "<VOL>": 1000.0},
        'log_return("<CLOSE>")',
        "2024-03-20T00:00:00",
        ("<TICKER>", "2 names", "--stream-column"),
        ("--stream-column", "<TICKER>"),
    ),
    "yfinance": Format(
        "yfinance, download(...).to_csv(): three lines of header",
        "SPY.csv",
        table(
            "Price,Adj Close,Close,High,Low,Open,Volume\n"
            "Ticker,SPY,SPY,SPY,SPY,SPY,SPY\n"
            "Date,,,,,,",
            lambda k, p, t: (
                f"{t:%Y-%m-%d},{p - 1:.2f},{p},{p + 1:.2f},{p - 1:.2f},{p},{59151200 + k}"
            ),
            DAY,
        ),
        ("Price", "Adj Close", "Close", "High", "Low", "Open", "Volume"),
        {"Close": 100.0, "Volume": 59151200.0},
        "log_return(Close)",
        "2024-03-20T00:00:00",
    ),
    "alpha vantage": Format(
        "Alpha Vantage, TIME_SERIES_DAILY_ADJUSTED as csv: newest first",
        "daily_adjusted_IBM.csv",
        table(
            "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient",
            lambda k, p, t: f"{t:%Y-%m-%d},{bar(p, '{:.4f}')},{p:.4f},{115847020 + k},0.0000,1.0",
            DAY,
            newest_first=True,
            end="\r\n",
        ),
        (
            *("timestamp", "open", "high", "low", "close", "adjusted_close", "volume"),
            *("dividend_amount", "split_coefficient"),
        ),
        {"close": LAST, "split_coefficient": 1.0},
        "log_return(close)",
        LAST_DAY,
        NEWEST,
        REVERSE,
    ),
    "investing.com": Format(
        "Investing.com, historical data: BOM, quoted, thousands, K/M, percent, newest first",
        "DAX Historical Data.csv",
        table(
            '\ufeff"Date","Price","Open","High","Low","Vol.","Change %"',
            lambda _, p, t: (
                f'"{t:%m/%d/%Y}","{p * 100:,.2f}","{p * 100 - 3:,.2f}","{p * 100 + 9:,.2f}",'
                f'"{p * 100 - 9:,.2f}","120.5M","-0.76%"'
            ),
            DAY,
            newest_first=True,
            end="\r\n",
        ),
        ("Date", "Price", "Open", "High", "Low", "Vol.", "Change %"),
        {"Price": float(f"{LAST * 100:.2f}"), "Vol.": 120.5e6, "Change %": -0.76},
        "log_return(Price)",
        LAST_DAY,
        NEWEST,
        REVERSE,
    ),
    "nasdaq.com": Format(
        "Nasdaq.com, Download Historical Data: dollar signs, MM/DD/YYYY, newest first",
        "HistoricalData_1710923400.csv",
        table(
            "Date,Close/Last,Volume,Open,High,Low",
            lambda k, p, t: (
                f"{t:%m/%d/%Y},${p:.2f},{18883220 + k},${p:.2f},${p + 1:.2f},${p - 1:.2f}"
            ),
            DAY,
            newest_first=True,
        ),
        ("Date", "Close/Last", "Volume", "Open", "High", "Low"),
        {"Close/Last": LAST, "Volume": 18883279.0},
        'log_return("Close/Last")',
        LAST_DAY,
        NEWEST,
        REVERSE,
    ),
    "ariva": Format(
        "ariva.de, historic.csv: semicolons, decimal comma, empty columns, newest first",
        "wkn_716460_historic.csv",
        table(
            "Datum;Erster;Hoch;Tief;Schlusskurs;Stuecke;Volumen",
            lambda _, p, t: f"{t:%Y-%m-%d};{bar(p, between=';').replace('.', ',')};;",
            DAY,
            newest_first=True,
        ),
        ("Datum", "Erster", "Hoch", "Tief", "Schlusskurs", "Stuecke", "Volumen"),
        {"Schlusskurs": LAST},
        "log_return(Schlusskurs)",
        LAST_DAY,
        NEWEST,
        REVERSE,
    ),
    "excel, german": Format(
        "Excel in German, Save as CSV: sep= line, CP1252, 1.234,56 and 20.03.2024 09:30",
        "Messwerte.csv",
        table(
            "sep=;\nDatum;Kurs in €;Menge",
            lambda k, p, t: f"{t:%d.%m.%Y %H:%M};{f'{p * 100:,.2f}'.translate(GERMAN)};{k + 1}",
            end="\r\n",
        ),
        ("Datum", "Kurs in €", "Menge"),
        {"Kurs in €": 10000.0, "Menge": 1.0},
        'log_return("Kurs in €")',
        T0,
        encoding="cp1252",
    ),
    # ---- statistics --------------------------------------------------------------------------
    "fred": Format(
        "FRED, fredgraph.csv: holidays are empty or a point",
        "DGS10.csv",
        table(
            "observation_date,DGS10",
            lambda k, p, t: (
                f"{t:%Y-%m-%d},{'.' if k == 5 else '' if k == 12 else f'{p / 25:.2f}'}"
            ),
            DAY,
        ),
        ("observation_date", "DGS10"),
        {"DGS10": 4.0},
        "diff(DGS10)",
        "2024-03-20T00:00:00",
        ("DGS10", "line 7", "--on-bad-row skip"),
        ("--on-bad-row", "skip"),
        ROWS - 2,
    ),
    "ecb": Format(
        "ECB Data Portal, csvdata of one series",
        "EXR.D.USD.EUR.SP00.A.csv",
        table(
            "KEY,FREQ,CURRENCY,CURRENCY_DENOM,EXR_TYPE,EXR_SUFFIX,TIME_PERIOD,OBS_VALUE,OBS_STATUS",
            lambda _, p, t: f"EXR.D.USD.EUR.SP00.A,D,USD,EUR,SP00,A,{t:%Y-%m-%d},{p / 90:.4f},A",
            DAY,
        ),
        (
            *("KEY", "FREQ", "CURRENCY", "CURRENCY_DENOM", "EXR_TYPE", "EXR_SUFFIX"),
            *("TIME_PERIOD", "OBS_VALUE", "OBS_STATUS"),
        ),
        {"OBS_VALUE": 1.1111},
        "log_return(OBS_VALUE)",
        "2024-03-20T00:00:00",
    ),
    "entso-e": Format(
        "ENTSO-E Transparency Platform, day-ahead prices: one column with an interval",
        "GUI_ENERGY_PRICES_202403200000-202404010000.csv",
        table(
            '"MTU (UTC)","Area","Sequence","Day-ahead Price (EUR/MWh)"',
            lambda _, p, t: (
                f'"{t:%d/%m/%Y %H:%M:%S} - {t + HOUR:%d/%m/%Y %H:%M:%S}","BZN|FR",'
                f'"Without Sequence","{p - 60:.2f}"'
            ),
            HOUR,
        ),
        ("MTU (UTC)", "Area", "Sequence", "Day-ahead Price (EUR/MWh)"),
        {"Day-ahead Price (EUR/MWh)": 40.0},
        'diff("Day-ahead Price (EUR/MWh)")',
    ),
    # ---- sensors -----------------------------------------------------------------------------
    "openaq": Format(
        "OpenAQ, archive: all sensors of a location in one file",
        "location-2178-20240320.csv.gz",
        table(
            "location_id,sensors_id,location,datetime,lat,lon,parameter,units,value",
            lambda k, p, t: (
                f"2178,{3919 - k % 2},Del Norte-2178,{t - k % 2 * HOUR:%Y-%m-%dT%H:%M:%S}-06:00,"
                f"35.1353,-106.584702,{'o3,ppm' if k % 2 else 'pm10,µg/m³'},"
                f"{0.04 if k % 2 else p}"
            ),
            HOUR,
        ),
        (
            *("location_id", "sensors_id", "location", "datetime", "lat", "lon", "parameter"),
            *("units", "value"),
        ),
        {"value": 100.0},
        "diff(value)",
        "2024-03-20T15:30:00",
        ("parameter", "2 names", "--stream-column"),
        ("--stream-column", "parameter"),
    ),
    "noaa gsod": Format(
        "NOAA, Global Summary of the Day: quoted, padded numbers, 999.9 for missing",
        "01001099999.csv",
        table(
            '"STATION","DATE","LATITUDE","LONGITUDE","NAME","TEMP","TEMP_ATTRIBUTES","DEWP","GUST"',
            lambda k, p, t: (
                f'"01001099999","{t:%Y-%m-%d}","70.9333333","-8.6666667","JAN MAYEN NOR NAVY, NO",'
                f'"{p - 67:6.1f}","24","{p - 70:6.1f}","{"999.9" if k % 2 else " 35.0"}"'
            ),
            DAY,
        ),
        (
            *("STATION", "DATE", "LATITUDE", "LONGITUDE", "NAME", "TEMP", "TEMP_ATTRIBUTES"),
            *("DEWP", "GUST"),
        ),
        {"TEMP": 33.0, "GUST": 35.0},
        "diff(TEMP)",
        "2024-03-20T00:00:00",
    ),
    "noaa buoy": Format(
        "NOAA, NDBC standard meteorological data: fields separated by blanks, # header, MM",
        "44013.txt",
        table(
            "#YY  MM DD hh mm WDIR WSPD GST  WVHT\n#yr  mo dy hr mn degT m/s  m/s     m",
            lambda _, p, t: f"{t:%Y %m %d %H %M} 230 {p / 20:4.1f}  5.0    MM",
        ),
        ("YY", "MM", "DD", "hh", "mm", "WDIR", "WSPD", "GST", "WVHT"),
        {"WDIR": 230.0, "WSPD": 5.0},
        "diff(WSPD)",
        "",
        ("several blanks", "sed"),
    ),
    "dwd": Format(
        "Deutscher Wetterdienst, hourly temperature: padded, YYYYMMDDHH, -999, eor at the end",
        "produkt_tu_stunde_20240320_20240331_01766.txt",
        table(
            "STATIONS_ID;MESS_DATUM;QN_9;TT_TU;RF_TU;eor",
            lambda _, p, t: f"       1766;{t:%Y%m%d%H};    1;{p / 10:6.1f};  -999;eor",
            HOUR,
            end="\r\n",
        ),
        ("STATIONS_ID", "MESS_DATUM", "QN_9", "TT_TU", "RF_TU", "eor"),
        {"TT_TU": 10.0},
        "diff(TT_TU)",
        "2024-03-20T09:00:00",
    ),
    "usgs": Format(
        "USGS, water services as RDB: comments, names, widths, tabs",
        "01646500.rdb",
        table(
            "# U.S. Geological Survey\n#\n# Data provided for site 01646500\n#\n"
            "agency_cd\tsite_no\tdatetime\ttz_cd\t123_00060\t123_00060_cd\n5s\t15s\t20d\t6s\t14n\t10s",
            lambda _, p, t: f"USGS\t01646500\t{t:%Y-%m-%d %H:%M}\tEST\t{p * 10:.1f}\tA",
        ),
        ("agency_cd", "site_no", "datetime", "tz_cd", "123_00060", "123_00060_cd"),
        {"123_00060": 1000.0},
        'log_return("123_00060")',
        T0,
    ),
    "uci air quality": Format(
        "UCI, Air Quality: semicolons, decimal comma, 18.00.00, -200, two empty columns",
        "AirQualityUCI.csv",
        table(
            "Date;Time;CO(GT);PT08.S1(CO);NMHC(GT);;",
            lambda k, p, t: (
                f"{t:%d/%m/%Y};{t:%H}.00.00;{f'{p / 40:.1f}'.replace('.', ',')};{1360 + k};"
                f"{-200 if k % 3 else 150};;"
            ),
            HOUR,
        ),
        ("Date", "Time", "CO(GT)", "PT08.S1(CO)", "NMHC(GT)"),
        {"CO(GT)": 2.5, "PT08.S1(CO)": 1360.0},
        'diff("CO(GT)")',
        "2024-03-20T09:00:00",
    ),
    "uci household power": Format(
        "UCI, Individual household electric power consumption: semicolons, ? for missing",
        "household_power_consumption.txt",
        table(
            "Date;Time;Global_active_power;Voltage",
            lambda k, p, t: (
                f"{t.day}/{t.month}/{t.year};{t:%H:%M:%S};"
                f"{'?;?' if k == 30 else f'{p / 25:.3f};{p + 134:.3f}'}"
            ),
        ),
        ("Date", "Time", "Global_active_power", "Voltage"),
        {"Global_active_power": 4.0, "Voltage": 234.0},
        "diff(Global_active_power)",
        T0,
        ("Global_active_power", "line 32", "--on-bad-row skip"),
        ("--on-bad-row", "skip"),
        ROWS - 1,
    ),
    # ---- data bases --------------------------------------------------------------------------
    "influxdb": Format(
        "InfluxDB 2, annotated CSV of a query: # lines, an empty first column",
        "query.csv",
        table(
            "#datatype,string,long,dateTime:RFC3339,double,string,string\n"
            "#group,false,false,false,false,true,true\n#default,_result,,,,,\n"
            ",result,table,_time,_value,_field,host",
            lambda _, p, t: f",,0,{t:%Y-%m-%dT%H:%M:%S}Z,{p},temp,station1",
            end="\r\n",
        ),
        ("c0", "result", "table", "_time", "_value", "_field", "host"),
        {"_value": 100.0},
        "diff(_value)",
        T0,
    ),
    "kdb+": Format(
        "kdb+, save `:trade.csv: times as 2024.03.20D09:30:00.123456789",
        "trade.csv",
        table(
            "time,sym,price,size",
            lambda k, p, t: f"{t:%Y.%m.%dD%H:%M:%S}.123456789,ibm,{p},{k + 100}",
        ),
        ("time", "sym", "price", "size"),
        {"price": 100.0, "size": 100.0},
        "log_return(price)",
        "2024-03-20T09:30:00.123456789",
    ),
}

NOT_YET = {"uci air quality"}
"""Two empty columns at the end of each line, and clocks such as 18.00.00."""
