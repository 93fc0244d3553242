-- The ledger: who used what, and the budgets. Made by `migrate --usage`, in a
-- schema of its own; nothing in `public` or `auth` is touched. Every statement
-- can be run again.
--
-- Tokens are stored, and money is worked out when it is read, by `prices`,
-- which the server keeps as its catalogue has them.

select pg_advisory_xact_lock(7411, 0);

create schema if not exists chatbot_ui_api;

create table if not exists chatbot_ui_api.usage (
  id uuid primary key default gen_random_uuid(),
  at timestamptz not null default now(),
  user_id uuid not null,
  route text not null,
  provider text not null,
  -- As the client named it, and as it was called.
  model text not null,
  served_model text,
  -- With `cached_tokens`, which were read from the provider's cache.
  input_tokens bigint not null default 0,
  cached_tokens bigint not null default 0,
  -- With `reasoning_tokens`.
  output_tokens bigint not null default 0,
  reasoning_tokens bigint not null default 0,
  ended text not null,
  -- The user's own key paid, not the server's.
  own_key boolean not null default false,
  -- The provider did not say, or did not get to say, how many tokens it was.
  estimated boolean not null default false
);
create index if not exists usage_of_user on chatbot_ui_api.usage (user_id, at);
create index if not exists usage_at on chatbot_ui_api.usage (at);

-- Older rows of `usage`, one for each day (UTC), user, route and model.
create table if not exists chatbot_ui_api.usage_days (
  day date not null,
  user_id uuid not null,
  route text not null,
  provider text not null,
  model text not null,
  served_model text not null,
  own_key boolean not null,
  requests bigint not null,
  input_tokens bigint not null,
  cached_tokens bigint not null,
  output_tokens bigint not null,
  reasoning_tokens bigint not null,
  primary key (user_id, day, route, provider, model, served_model, own_key)
);

-- What a user may spend. A row with a user takes the place of everybody's with
-- the same model, period, unit and scope.
create table if not exists chatbot_ui_api.budgets (
  id bigint generated always as identity primary key,
  -- NULL: everybody has this budget, each their own.
  user_id uuid,
  -- NULL: every model; else a pattern such as gpt-4*.
  model text,
  period text not null check (period in ('day', 'month')),
  unit text not null check (unit in ('tokens', 'usd', 'requests')),
  amount numeric not null check (amount >= 0),
  -- `server`: only what the server's own keys pay.
  scope text not null default 'server' check (scope in ('server', 'all'))
);

-- US dollars for a million tokens; the server writes them.
create table if not exists chatbot_ui_api.prices (
  provider text not null,
  model text not null,
  input numeric,
  cached numeric,
  output numeric,
  changed_at timestamptz,
  primary key (provider, model)
);

-- Requests under way, with the most that each may take. One whose server has
-- died ends with its lease.
create table if not exists chatbot_ui_api.reservations (
  id uuid primary key,
  user_id uuid not null,
  at timestamptz not null,
  expires_at timestamptz not null,
  route text not null,
  provider text not null,
  -- The model that the client named, and the one that is to be called.
  models text[] not null,
  own_key boolean not null,
  input_tokens bigint not null,
  output_tokens bigint not null,
  usd numeric not null,
  -- The likely size of the prompt.
  likely_input bigint not null
);
create index if not exists reservations_of_user on chatbot_ui_api.reservations (user_id);

-- How much of a budget is spent. It can be worked out from `usage`, and is
-- where the row is missing.
create table if not exists chatbot_ui_api.counters (
  budget_id bigint not null references chatbot_ui_api.budgets on delete cascade,
  user_id uuid not null,
  since timestamptz not null,
  used numeric not null,
  counted_at timestamptz not null default clock_timestamp(),
  primary key (budget_id, user_id, since)
);

create or replace function chatbot_ui_api.budget_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $function$
begin
  delete from chatbot_ui_api.counters where budget_id = old.id;
  return null;
end
$function$;
drop trigger if exists budget_changed on chatbot_ui_api.budgets;
create trigger budget_changed after update of user_id, model, period, unit, scope on chatbot_ui_api.budgets
  for each row execute function chatbot_ui_api.budget_changed();

-- The start of a budget's period. The small functions have no settings of their
-- own, so that Postgres can put them in place; what calls them has.
create or replace function chatbot_ui_api.period_start(period text, at timestamptz) returns timestamptz
language sql immutable as $function$
  select date_trunc(period, at at time zone 'UTC') at time zone 'UTC'
$function$;

create or replace function chatbot_ui_api.period_end(period text, at timestamptz) returns timestamptz
language sql immutable as $function$
  select (date_trunc(period, at at time zone 'UTC') + ('1 ' || period)::interval) at time zone 'UTC'
$function$;

-- The lock under which a user's budgets are changed.
create or replace function chatbot_ui_api.lock_of(of_user uuid) returns bigint
language sql immutable as $function$
  select hashtextextended(of_user::text, 7411)
$function$;

create or replace function chatbot_ui_api.matches(pattern text, asked text, called text) returns boolean
language sql immutable as $function$
  select pattern is null
    or asked ilike replace(replace(replace(replace(pattern, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%')
    or coalesce(called ilike replace(replace(replace(replace(pattern, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%'), false)
$function$;

create or replace function chatbot_ui_api.budgets_of(of_user uuid) returns setof chatbot_ui_api.budgets
language sql stable as $function$
  select * from chatbot_ui_api.budgets budget
  where budget.user_id = of_user or (budget.user_id is null and not exists (
    select from chatbot_ui_api.budgets own
    where own.user_id = of_user and own.model is not distinct from budget.model
      and own.period = budget.period and own.unit = budget.unit and own.scope = budget.scope))
$function$;

-- Requests and days alike, with money by the prices of today: NULL for a
-- model without any.
create or replace view chatbot_ui_api.priced_usage as
  select used.*,
      (greatest(input_tokens - cached_tokens, 0) * price.input + cached_tokens * coalesce(price.cached, price.input)
        + output_tokens * coalesce(price.output, 0)) / 1000000 as usd
  from (
    select id, at, user_id, route, provider, model, coalesce(served_model, model) as served_model, own_key,
        1::bigint as requests, input_tokens, cached_tokens, output_tokens, reasoning_tokens
      from chatbot_ui_api.usage
    union all
    select null, day::timestamp at time zone 'UTC', user_id, route, provider, model, served_model, own_key,
        requests, input_tokens, cached_tokens, output_tokens, reasoning_tokens
      from chatbot_ui_api.usage_days
  ) used left join chatbot_ui_api.prices price on price.provider = used.provider and price.model = used.served_model;

create or replace view chatbot_ui_api.usage_by_day as
  select (at at time zone 'UTC')::date as day, user_id, route, provider, model, served_model, own_key,
      sum(requests)::bigint as requests, sum(input_tokens)::bigint as input_tokens,
      sum(cached_tokens)::bigint as cached_tokens, sum(output_tokens)::bigint as output_tokens,
      sum(reasoning_tokens)::bigint as reasoning_tokens, sum(usd) as usd
  from chatbot_ui_api.priced_usage group by 1, 2, 3, 4, 5, 6, 7;

create or replace view chatbot_ui_api.usage_by_model as
  select date_trunc('month', at at time zone 'UTC')::date as month, provider, served_model as model,
      sum(requests)::bigint as requests, sum(input_tokens)::bigint as input_tokens,
      sum(output_tokens)::bigint as output_tokens, sum(usd) as usd
  from chatbot_ui_api.priced_usage group by 1, 2, 3;

create or replace view chatbot_ui_api.usage_by_user as
  select date_trunc('month', at at time zone 'UTC')::date as month, user_id,
      sum(requests)::bigint as requests, sum(input_tokens)::bigint as input_tokens,
      sum(output_tokens)::bigint as output_tokens, sum(usd) as usd
  from chatbot_ui_api.priced_usage group by 1, 2;

-- What a user has spent of a budget in a period, from the ledger.
create or replace function chatbot_ui_api.counted(
  budget chatbot_ui_api.budgets, of_user uuid, since timestamptz) returns numeric
language plpgsql stable set search_path = pg_catalog, pg_temp as $function$
begin
  return (
    select coalesce(sum(case budget.unit
        when 'requests' then requests when 'tokens' then input_tokens + output_tokens else usd end), 0)
    from chatbot_ui_api.priced_usage used
    where used.user_id = of_user and used.at >= counted.since
      and used.at < chatbot_ui_api.period_end(budget.period, counted.since)
      and (budget.scope = 'all' or not used.own_key)
      and chatbot_ui_api.matches(budget.model, used.model, used.served_model));
end
$function$;

-- The same as it is kept; NULL if it is not.
create or replace function chatbot_ui_api.kept(
  budget chatbot_ui_api.budgets, of_user uuid, since timestamptz) returns numeric
language plpgsql stable set search_path = pg_catalog, pg_temp as $function$
begin
  return (
    select counter.used from chatbot_ui_api.counters counter
    where counter.budget_id = budget.id and counter.user_id = of_user and counter.since = kept.since
      and (budget.unit <> 'usd' or not exists (
        select from chatbot_ui_api.prices where changed_at > counter.counted_at)));
end
$function$;

-- The part of a budget that requests under way may still take. A lease that has
-- run out holds its part until `sweep` replaces it by an estimate.
create or replace function chatbot_ui_api.reserved(
  budget chatbot_ui_api.budgets, of_user uuid, since timestamptz) returns numeric
language plpgsql volatile set search_path = pg_catalog, pg_temp as $function$
begin
  return (
    select coalesce(sum(case budget.unit
        when 'requests' then 1 when 'tokens' then held.input_tokens + held.output_tokens else held.usd end), 0)
    from chatbot_ui_api.reservations held
    where held.user_id = of_user and held.at >= reserved.since
      and (budget.scope = 'all' or not held.own_key)
      and chatbot_ui_api.matches(budget.model, held.models[1], held.models[2]));
end
$function$;

-- Begins a request: reserves what it may take at most in each of the user's
-- budgets, all under one lock, so that no two requests get the same room.
-- Returns NULL, or `{"limit"}` if there is room for so many tokens of an answer
-- only, or `{"refused"}` with the budget that has none.
create or replace function chatbot_ui_api.reserve(of_user uuid, request jsonb) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $function$
declare
  names constant text[] := array(select jsonb_array_elements_text(request -> 'models'));
  own constant boolean := request -> 'own_key';
  input constant bigint := request -> 'input';
  input_price constant numeric := request -> 'input_usd';
  output_price constant numeric := request -> 'output_usd';
  output bigint := request -> 'output';
  smallest constant bigint := least(output, 64);
  locked boolean := false;
  moment timestamptz;
  start timestamptz;
  spent numeric;
  held numeric;
  room numeric;
  need numeric;
  budget chatbot_ui_api.budgets;
  -- The request itself, sent once more as its connection broke, and the one in whose place it is.
  earlier constant uuid[] := array[(request ->> 'id')::uuid, (request ->> 'replaces')::uuid];
begin
  -- What a crash of the database would lose is written again when the request ends.
  perform set_config('synchronous_commit', 'off', true);
  delete from chatbot_ui_api.reservations where id = any (earlier);
  for budget in
    select * from chatbot_ui_api.budgets_of(of_user) candidate
    where (candidate.scope = 'all' or not own) and chatbot_ui_api.matches(candidate.model, names[1], names[2])
    -- Rows are locked in this order.
    order by candidate.id
  loop
    if not locked then
      perform pg_advisory_xact_lock(chatbot_ui_api.lock_of(of_user));
      locked := true;
      -- Again, as an earlier copy may have had the lock.
      delete from chatbot_ui_api.reservations where id = any (earlier);
    end if;
    moment := clock_timestamp();
    start := chatbot_ui_api.period_start(budget.period, moment);
    spent := chatbot_ui_api.kept(budget, of_user, start);
    if spent is null then
      -- As it is now, and as it stays until what is counted is stored.
      select * into budget from chatbot_ui_api.budgets now where now.id = budget.id for share;
      continue when not found;
      spent := chatbot_ui_api.counted(budget, of_user, start);
      insert into chatbot_ui_api.counters (budget_id, user_id, since, used)
        values (budget.id, of_user, start, spent)
        on conflict on constraint counters_pkey do update
          set used = excluded.used, counted_at = excluded.counted_at;
    end if;
    held := chatbot_ui_api.reserved(budget, of_user, start);
    room := budget.amount - spent - held;
    need := case budget.unit
      when 'requests' then 1
      when 'tokens' then input + smallest
      else greatest(input * input_price + smallest * output_price, 0.000000001) end;
    if room < need then
      return jsonb_build_object('refused', jsonb_build_object(
        'model', budget.model, 'period', budget.period, 'unit', budget.unit, 'amount', budget.amount, 'need', need,
        'left', greatest(budget.amount - spent, 0), 'reserved', held,
        'resets_at', to_char(chatbot_ui_api.period_end(budget.period, moment) at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),
        'seconds', ceil(extract(epoch from chatbot_ui_api.period_end(budget.period, moment) - moment))::bigint));
    end if;
    output := case
      when budget.unit = 'tokens' then least(output, floor(room - input))
      when budget.unit = 'usd' and output_price > 0 then least(output, floor((room - input * input_price) / output_price))
      else output end;
  end loop;
  moment := clock_timestamp();
  insert into chatbot_ui_api.reservations (id, user_id, at, expires_at, route, provider, models, own_key,
      input_tokens, output_tokens, usd, likely_input)
    values ((request ->> 'id')::uuid, of_user, moment, moment + interval '30 seconds', request ->> 'route',
      request ->> 'provider', names, own, input, output, input * input_price + output * output_price,
      (request -> 'likely_input')::bigint)
    on conflict (id) do update set expires_at = excluded.expires_at;
  return case when output < (request -> 'output')::bigint then jsonb_build_object('limit', output) end;
end
$function$;

-- Adds rows of the ledger to the counters that are kept. The users are locked.
create or replace function chatbot_ui_api.add_up(ids uuid[]) returns void
language sql volatile set search_path = pg_catalog, pg_temp as $function$
  update chatbot_ui_api.counters counter set used = counter.used + spent.amount
  from (
    select budget.id, used.user_id, chatbot_ui_api.period_start(budget.period, used.at) as since,
        sum(case budget.unit when 'requests' then used.requests
          when 'tokens' then used.input_tokens + used.output_tokens else coalesce(used.usd, 0) end) as amount
    from chatbot_ui_api.priced_usage used
    join chatbot_ui_api.budgets budget on (budget.scope = 'all' or not used.own_key)
      and chatbot_ui_api.matches(budget.model, used.model, used.served_model)
    where used.id = any (ids)
    group by 1, 2, 3
  ) spent
  where counter.budget_id = spent.id and counter.user_id = spent.user_id and counter.since = spent.since
$function$;

-- Ends requests: a row of the ledger for each, in place of what was reserved.
-- The same entries may come twice.
create or replace function chatbot_ui_api.settle(entries jsonb, released uuid[]) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $function$
declare
  ids constant uuid[] := array(select (entry ->> 'id')::uuid from jsonb_array_elements(entries) entry);
  key bigint;
begin
  -- In order, so that two servers never wait for each other.
  for key in
    select distinct chatbot_ui_api.lock_of(users.user_id) from (
      select (entry ->> 'user_id')::uuid as user_id from jsonb_array_elements(entries) entry
      union select held.user_id from chatbot_ui_api.reservations held where held.id = any (released)
    ) users order by 1
  loop
    perform pg_advisory_xact_lock(key);
  end loop;
  -- A row that is there already was an estimate, or came twice: what it added is counted anew.
  delete from chatbot_ui_api.counters counter
    where counter.user_id in (select known.user_id from chatbot_ui_api.usage known where known.id = any (ids));
  with held as (
    delete from chatbot_ui_api.reservations where id = any (ids) or id = any (released) returning id, at
  )
  insert into chatbot_ui_api.usage as known (id, at, user_id, route, provider, model, served_model,
      input_tokens, cached_tokens, output_tokens, reasoning_tokens, ended, own_key, estimated)
    select entry.id, coalesce(held.at, to_timestamp(entry.at)), entry.user_id, entry.route, entry.provider,
        entry.model, entry.served_model, entry.input, entry.cached, entry.output, entry.reasoning,
        entry.ended, entry.own_key, entry.estimated
      from jsonb_to_recordset(entries) as entry (id uuid, at double precision, user_id uuid, route text,
        provider text, model text, served_model text, input bigint, cached bigint, output bigint,
        reasoning bigint, ended text, own_key boolean, estimated boolean)
      left join held using (id)
    on conflict (id) do update set served_model = excluded.served_model, input_tokens = excluded.input_tokens,
      cached_tokens = excluded.cached_tokens, output_tokens = excluded.output_tokens,
      reasoning_tokens = excluded.reasoning_tokens, ended = excluded.ended, own_key = excluded.own_key,
      estimated = excluded.estimated;
  perform chatbot_ui_api.add_up(ids);
  return cardinality(ids);
end
$function$;

-- Keeps what is reserved for requests that are still under way.
create or replace function chatbot_ui_api.renew(ids uuid[]) returns bigint
language sql volatile security definer set search_path = pg_catalog, pg_temp as $function$
  with renewed as (
    update chatbot_ui_api.reservations set expires_at = clock_timestamp() + interval '30 seconds'
      where id = any (ids) returning id
  )
  select count(*) from renewed
$function$;

-- Ends the requests of servers that died: by an estimate, since nobody knows
-- what they took. Returns their number.
create or replace function chatbot_ui_api.sweep() returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $function$
declare
  -- Later than their leases' end, since a server that lives may have lost the database for a while.
  moment constant timestamptz := clock_timestamp() - interval '10 seconds';
  ids uuid[];
  key bigint;
begin
  for key in
    select distinct chatbot_ui_api.lock_of(held.user_id) from chatbot_ui_api.reservations held
    where held.expires_at < moment order by 1
  loop
    perform pg_advisory_xact_lock(key);
  end loop;
  with dead as (
    delete from chatbot_ui_api.reservations where expires_at < moment returning *
  ), written as (
    insert into chatbot_ui_api.usage (id, at, user_id, route, provider, model, served_model,
        input_tokens, output_tokens, ended, own_key, estimated)
      select id, at, user_id, route, provider, models[1], models[cardinality(models)], likely_input,
          -- Its server lived until twenty seconds before the lease's end or so.
          least(output_tokens, 100 * greatest(extract(epoch from expires_at - at) - 20, 1))::bigint,
          'server lost', own_key, true
        from dead
      on conflict (id) do nothing
      returning id
  )
  select array_agg(id) from written into ids;
  perform chatbot_ui_api.add_up(ids);
  return coalesce(cardinality(ids), 0);
end
$function$;

-- The models that the ledger names since a day.
create or replace function chatbot_ui_api.models_since(first date) returns table (provider text, model text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $function$
  select used.provider, used.served_model from chatbot_ui_api.priced_usage used
  where used.at >= first::timestamp at time zone 'UTC' group by 1, 2
$function$;

-- Takes the catalogue's prices.
create or replace function chatbot_ui_api.set_prices(new_prices jsonb) returns bigint
language sql volatile security definer set search_path = pg_catalog, pg_temp as $function$
  with written as (
    insert into chatbot_ui_api.prices as known (provider, model, input, cached, output, changed_at)
      -- Later, for the sake of those who read the old ones just now.
      select provider, model, input, cached, output, clock_timestamp() + interval '5 seconds'
        from jsonb_to_recordset(new_prices)
          as price (provider text, model text, input numeric, cached numeric, output numeric)
        order by provider, model
      on conflict (provider, model) do update set input = excluded.input, cached = excluded.cached,
        output = excluded.output, changed_at = excluded.changed_at
      where (known.input, known.cached, known.output) is distinct from (excluded.input, excluded.cached, excluded.output)
      returning model
  )
  select count(*) from written
$function$;

-- Replaces rows that are older than some days by one for each day, user, route
-- and model; at most so many in one go. Returns their number.
create or replace function chatbot_ui_api.roll_up(keep_days integer, most integer) returns bigint
language sql volatile security definer set search_path = pg_catalog, pg_temp as $function$
  with old as (
    select id from chatbot_ui_api.usage
    where at < (date_trunc('day', now() at time zone 'UTC') - keep_days * interval '1 day') at time zone 'UTC'
    order by at limit most for update skip locked
  ), gone as (
    delete from chatbot_ui_api.usage using old where usage.id = old.id returning usage.*
  ), added as (
    insert into chatbot_ui_api.usage_days as days
      select (at at time zone 'UTC')::date, user_id, route, provider, model, coalesce(served_model, model), own_key,
          count(*), sum(input_tokens), sum(cached_tokens), sum(output_tokens), sum(reasoning_tokens)
        from gone group by 1, 2, 3, 4, 5, 6, 7 order by 1, 2, 3, 4, 5, 6, 7
      on conflict (user_id, day, route, provider, model, served_model, own_key) do update set
        requests = days.requests + excluded.requests,
        input_tokens = days.input_tokens + excluded.input_tokens,
        cached_tokens = days.cached_tokens + excluded.cached_tokens,
        output_tokens = days.output_tokens + excluded.output_tokens,
        reasoning_tokens = days.reasoning_tokens + excluded.reasoning_tokens
  )
  select count(*) from gone
$function$;

-- A user's own figures, as `GET /api/usage` has them.
create or replace function chatbot_ui_api.report(of_user uuid) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp as $function$
  with moment as (
    select clock_timestamp() as now, chatbot_ui_api.period_start('day', clock_timestamp()) as day,
        chatbot_ui_api.period_start('month', clock_timestamp()) as month
  ), used as (
    select used.* from chatbot_ui_api.priced_usage used, moment where user_id = of_user and at >= moment.month
  ), sums as (
    select jsonb_build_object('requests', coalesce(sum(requests) filter (where at >= moment.day), 0),
          'tokens', coalesce(sum(input_tokens + output_tokens) filter (where at >= moment.day), 0),
          'usd', coalesce(trim_scale(round(sum(usd) filter (where at >= moment.day), 6)), 0)) as today,
        jsonb_build_object('requests', coalesce(sum(requests), 0),
          'tokens', coalesce(sum(input_tokens + output_tokens), 0), 'usd', coalesce(trim_scale(round(sum(usd), 6)), 0)) as month
    from used, moment
  ), models as (
    select provider, served_model, sum(requests) as requests, sum(input_tokens + output_tokens) as tokens,
        trim_scale(round(sum(usd), 6)) as usd
    from used group by 1, 2
  ), states as (
    select budget, coalesce(chatbot_ui_api.kept(budget, of_user, since), chatbot_ui_api.counted(budget, of_user, since)) as used,
        chatbot_ui_api.reserved(budget, of_user, since) as reserved,
        chatbot_ui_api.period_end(budget.period, moment.now) as resets_at
    from chatbot_ui_api.budgets_of(of_user) budget, moment,
      lateral (select chatbot_ui_api.period_start(budget.period, moment.now) as since) period
  )
  select jsonb_build_object('today', sums.today, 'month', sums.month,
    'by_model', coalesce((
      select jsonb_agg(jsonb_build_object('provider', provider, 'model', served_model, 'requests', requests,
          'tokens', tokens, 'usd', usd) order by tokens desc, provider, served_model) from models), '[]'),
    'budgets', coalesce((
      select jsonb_agg(jsonb_build_object('period', (budget).period, 'unit', (budget).unit, 'model', (budget).model,
          'scope', (budget).scope, 'amount', trim_scale((budget).amount), 'used', trim_scale(round(used, 6)),
          'reserved', trim_scale(round(reserved, 6)),
          'left', greatest(trim_scale(round((budget).amount - used - reserved, 6)), 0),
          'resets_at', to_char(resets_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')) order by (budget).id)
      from states), '[]'))
  from sums
$function$;

-- Row level security: a signed-in user of PostgREST sees the own rows. The
-- server and its role go by the functions; the tables' owner sees all.
alter table chatbot_ui_api.usage enable row level security;
alter table chatbot_ui_api.usage_days enable row level security;
alter table chatbot_ui_api.budgets enable row level security;
alter table chatbot_ui_api.prices enable row level security;
alter table chatbot_ui_api.reservations enable row level security;
alter table chatbot_ui_api.counters enable row level security;

-- The rights of the role of docs/role.sql, which calls this too.
create or replace function chatbot_ui_api.open_to_role() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
begin
  grant usage on schema chatbot_ui_api to chatbot_ui_api;
  grant execute on function chatbot_ui_api.reserve(uuid, jsonb), chatbot_ui_api.settle(jsonb, uuid[]),
    chatbot_ui_api.renew(uuid[]), chatbot_ui_api.sweep(), chatbot_ui_api.models_since(date),
    chatbot_ui_api.set_prices(jsonb), chatbot_ui_api.roll_up(integer, integer), chatbot_ui_api.report(uuid)
    to chatbot_ui_api;
  grant select on chatbot_ui_api.priced_usage, chatbot_ui_api.usage_by_day, chatbot_ui_api.budgets to chatbot_ui_api;
  drop policy if exists "chatbot_ui_api reads" on chatbot_ui_api.budgets;
  create policy "chatbot_ui_api reads" on chatbot_ui_api.budgets for select to chatbot_ui_api using (true);
end
$function$;

do $$
declare
  made record;
begin
  for made in
    select proc.oid::regprocedure as signature from pg_proc proc
    where pronamespace = 'chatbot_ui_api'::regnamespace and proname in ('budget_changed', 'period_start', 'period_end',
      'lock_of', 'matches', 'budgets_of', 'counted', 'kept', 'reserved', 'reserve', 'add_up', 'settle', 'renew', 'sweep',
      'models_since', 'set_prices', 'roll_up', 'report', 'open_to_role')
  loop
    execute format('revoke all on function %s from public', made.signature);
  end loop;

  -- A name that this role may not see is an error, so the catalogue is read.
  if exists (
    select from pg_proc proc join pg_namespace space on space.oid = pronamespace
    where space.nspname = 'auth' and proname = 'uid' and pronargs = 0
      and has_schema_privilege(space.oid, 'usage') and has_function_privilege(proc.oid, 'execute')
  ) then
    drop policy if exists "own usage" on chatbot_ui_api.usage;
    create policy "own usage" on chatbot_ui_api.usage for select using (user_id = (select auth.uid()));
    drop policy if exists "own usage" on chatbot_ui_api.usage_days;
    create policy "own usage" on chatbot_ui_api.usage_days for select using (user_id = (select auth.uid()));
    drop policy if exists "own budgets" on chatbot_ui_api.budgets;
    create policy "own budgets" on chatbot_ui_api.budgets for select
      using (user_id = (select auth.uid()) or (user_id is null and (select auth.uid()) is not null));
    if to_regrole('authenticated') is not null then
      grant usage on schema chatbot_ui_api to authenticated;
      grant select on chatbot_ui_api.usage, chatbot_ui_api.usage_days, chatbot_ui_api.budgets to authenticated;
    end if;
  end if;

  if to_regrole('chatbot_ui_api') is not null then
    perform chatbot_ui_api.open_to_role();
  end if;
end
$$;
